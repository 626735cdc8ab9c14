"""The dataset on disk, and the transforms that training, adapters and tests share."""
