"""A data source becomes batches: files found or made, preprocessed to arrays, and loaded."""
