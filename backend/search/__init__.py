"""Finding the front by search: what is searched, what is tried next, how two fronts are compared. No weights here."""
