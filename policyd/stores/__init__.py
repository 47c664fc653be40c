"""Where accounts, reservations and usage records live. `base` is the contract that every store keeps."""
