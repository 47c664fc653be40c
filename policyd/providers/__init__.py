"""What each provider's wire format says: bytes in, facts out. Pure, like `policyd.core`, but for JSON decoding."""
