"""Tasks and pure parts: what differs between the real Phonic and its documents, told without a customer's data."""
