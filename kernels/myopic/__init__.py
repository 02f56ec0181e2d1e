"""Attention whose backward gives keys and values only their own position's gradient: `op`."""
