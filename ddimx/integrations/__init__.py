"""ddimx inside other people's libraries; each needs that library, and nothing else needs these."""
