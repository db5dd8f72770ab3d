//go:build faults

package faults

import "time"

// How large the trials are.
const (
	peersOfTrial = 60
	sizeOfFile   = 200_000_000
	rateOfSource = 5_000_000
	// finishedBefore serve on from memory, while underWay are in the midst.
	finishedBefore, underWay = 100, 100
	// rateOfPeer bounds what a peer fetches where a call that takes 5 s, as it may
	// on a machine that is busy with the peers' own work, would fail; 0 is no bound.
	rateOfPeer = 3_000_000
	// everywhere is how many download while every process is restarted, none of
	// them faster than rateOfEach. They begin within beginWithin, and so do not end at
	// the same time: each reads its whole file then for its MD5, all of them
	// together would take a processor each for minutes, and whoever is not at the
	// end yet would be left without.
	everywhere  = 200
	sizeForEach = 100_000_000
	rateOfEach  = 450_000
	beginWithin = 2 * time.Minute
	// Files that are many are small.
	sizeOfSmall = 30_000_000
	rateOfSmall = 400_000
	// usual is the percentage of the file at which things happen.
	usual      = 50
	trialLimit = 6 * time.Minute

	// piecesInFlight are those that a lost owner may take with it: as many as
	// are cut, checked and written at a time, and as many that the replica has
	// not copied yet.
	piecesInFlight = 20

	// large trials have more variants of the same fault, and such as take clients
	// a minute to get over.
	large = true

	// storeAway and frozenFor are how long an etcd is away and a process is held
	// at least; downloads and newTasks are what happens meanwhile.
	storeAway = time.Minute
	frozenFor = time.Minute
	downloads = 30
	newTasks  = 5
)

// killedAt are the percentages of the file at which somebody is killed.
func killedAt() []int { return []int{20, 50, 80} }
