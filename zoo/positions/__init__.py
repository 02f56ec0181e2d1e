"""Position schemes, one class a file; `base.Position` says where a scheme may act."""
