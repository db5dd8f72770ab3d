//go:build !faults

package faults

import "time"

// How large the trials are.
const (
	peersOfTrial = 12
	sizeOfFile   = 24_000_000
	rateOfSource = 7_000_000
	// finishedBefore serve on from memory, while underWay are in the midst.
	finishedBefore, underWay = peersOfTrial / 2, peersOfTrial
	// rateOfPeer bounds what a peer fetches where a call that takes 5 s, as it may
	// on a machine that is busy with the peers' own work, would fail; 0 is no bound.
	rateOfPeer = 0
	// everywhere is how many download while every process is restarted, none of
	// them faster than rateOfEach. They begin within beginWithin.
	everywhere  = 24
	sizeForEach = sizeOfSmall
	rateOfEach  = 1_000_000
	beginWithin = 2 * time.Second
	// Files that are many are small.
	sizeOfSmall = 12_000_000
	rateOfSmall = 3_000_000
	// usual is the percentage of the file at which things happen: late enough
	// that a second fetch would be out of bounds.
	usual      = 60
	trialLimit = 2 * time.Minute

	// piecesInFlight are those that a lost owner may take with it. The source is
	// slower here than what comes after it, so they are few.
	piecesInFlight = 8

	// large trials have more variants of the same fault, and such as take clients
	// a minute to get over.
	large = false

	// storeAway and frozenFor are how long an etcd is away and a process is held
	// at least; downloads and newTasks are what happens meanwhile.
	storeAway = 0
	frozenFor = 0
	downloads = 6
	newTasks  = 2
)

// killedAt are the percentages of the file at which somebody is killed.
func killedAt() []int { return []int{usual} }
