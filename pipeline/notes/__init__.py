"""Which notes there are: NSynth's names and labels, folders of audio, demo notes, the download."""
