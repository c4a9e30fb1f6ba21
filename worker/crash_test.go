package worker_test

func runAsVictim() bool { return false }
