"""What people look at: the page, its figures, the tables of `evaluate`."""
