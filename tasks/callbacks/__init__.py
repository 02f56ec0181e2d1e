"""What happens around the training loop: measuring, saving, showing. One callback a file."""
