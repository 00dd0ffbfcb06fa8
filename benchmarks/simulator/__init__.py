"""How well ``headrace simulate`` predicts: fitted at one load, compared with real runs at others."""
