"""Studies of the samplers and of their speed; the job needs none of them."""
