"""The wing: what a person uses and a reader of the book may skip. No module outside it imports it."""
