"""What tests share: worlds, models, requests, references, workers. Each module loads only the rooms that its tests may."""
