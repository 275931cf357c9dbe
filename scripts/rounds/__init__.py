"""What ``scripts/linearizable_rounds`` is made of: clients in processes of their own, and what is done to leaders."""
