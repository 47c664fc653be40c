"""The Envoy side: one HTTP exchange as a state machine, and the thin edge that speaks Envoy's `ext_proc` protocol."""
