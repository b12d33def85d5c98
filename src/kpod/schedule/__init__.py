"""The progressive schedule: clusters of questions, the selection of a stage, the plan of all stages (Eq. 9-13)."""
