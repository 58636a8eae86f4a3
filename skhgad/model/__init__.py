"""The model in pure torch: flow, mixture and losses."""
