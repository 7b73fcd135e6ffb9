"""TFRecord files in, shards and dead letters out, and what lies on disk between."""
