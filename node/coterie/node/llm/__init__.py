"""Language models for running skills: one call is paid once, within the cluster's budgets.

Only `clients.py` knows the provider's library, and imports it at the first call: it takes a second."""
