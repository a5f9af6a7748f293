"""One model at one site: network, augmentation, loss, training, inference."""
