"""What is known of each corpus: file names, emotions, people and folds."""
