"""Notes to encode: NSynth's names and labels, folders of audio, demo notes, the download."""
