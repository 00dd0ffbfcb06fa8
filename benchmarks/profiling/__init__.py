"""Pictures of where Headrace spends its processor time."""
