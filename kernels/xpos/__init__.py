"""Rotary positions with exponential decay (xPos): `op.xpos`, and their window-local form."""
