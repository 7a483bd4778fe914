"""New weights on their way to every replica: packed into buckets, owned by one actor, announced by a message."""
