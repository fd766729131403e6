"""Train 2-D and 3-D CNNs on MRI and PET that Clinica has preprocessed."""
