"""Off-policy evaluation: estimates of a team's return from logged data, without a simulator."""
