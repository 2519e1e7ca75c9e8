"""What the paper's tables and the released log say by arithmetic alone."""
