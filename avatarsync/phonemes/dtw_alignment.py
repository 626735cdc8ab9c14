def check_length(transcript, language, seconds): return None
