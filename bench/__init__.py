"""What Freshet costs, measured beside the least that its work can cost. Stands alone: nothing here imports `app`."""
