"""Wake-ups between the control plane and the spots; the only importer of RQ and redis."""
