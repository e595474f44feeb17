"""Named cells that reach each other over a hierarchy of relays."""
