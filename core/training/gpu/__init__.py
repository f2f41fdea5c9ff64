"""Synthetic people made on a GPU, for training on one large GPU that comes bare: PyTorch, NumPy and OpenCV are all that it needs."""
