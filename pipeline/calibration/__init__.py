"""Thresholds measured on the user's own pictures instead of taken on trust."""
