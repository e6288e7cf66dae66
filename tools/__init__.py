"""What only this repository needs: the embedded models, conversions, the check of its claims."""
