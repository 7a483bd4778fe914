"""What a trained model says and thinks: answers, log-probabilities, rewards and held-out losses. No serving, no Ray."""
