"""What is to be seen of models: how they differ."""
