"""Training on a rented machine: what goes there, what runs there, and following it from here."""
