-- Answers the revision of the run-time state.

return state_revision()
