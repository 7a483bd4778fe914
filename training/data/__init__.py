"""Which tokens a training step sees: token stores are read as one stream and cut into
samples, which come in an order computed from keys.
"""
