"""tailor fits a large pre-trained model to your data and your hardware."""
