package scenario

import (
	"slices"
	"time"
)

// spread is the time that the clients of one machine need to start.
const spread = 500 * time.Millisecond

func equal(count int, rate float64) []Hosts { return []Hosts{{Count: count, Up: rate, Down: rate}} }

// All returns the scenarios in the order of the table.
func All() []Scenario {
	list := slices.Concat(benched(), sizes(), mixes(), faults(), several())
	for i := range list {
		s := &list[i]
		s.Tasks, s.Instances = max(s.Tasks, 1), max(s.Instances, 1)
		if s.Source == 0 {
			s.Source = 1000 * Mbit
		}
		s.Source = max(s.Source, 0)
		if s.Trickle == 0 {
			s.Spread = spread
		}
	}
	return list
}

// Find returns the scenario of that name.
func Find(name string) (Scenario, bool) {
	list := All()
	i := slices.IndexFunc(list, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return Scenario{}, false
	}
	return list[i], true
}

// benched are those that are measured on real links, too.
func benched() []Scenario {
	return []Scenario{
		{Name: "20x40", Title: "20 × 40 Mbit/s, CDN 80, 50 MB", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit, Length: 50 * MB},
		{Name: "40x20", Title: "40 × 20 Mbit/s, CDN 80, 50 MB", Hosts: equal(40, 20*Mbit), CDN: 80 * Mbit, Length: 50 * MB},
		{Name: "10x80", Title: "10 × 80 Mbit/s, CDN 160, 200 MB", Hosts: equal(10, 80*Mbit), CDN: 160 * Mbit, Length: 200 * MB},
		{Name: "20x40-5MB", Title: "20 × 40 Mbit/s, CDN 80, 5 MB", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit, Length: 5 * MB},
		{Name: "20x40-1MB", Title: "20 × 40 Mbit/s, CDN 80, 1 MB", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit, Length: 1 * MB},
		{Name: "20x40-300MB", Title: "20 × 40 Mbit/s, CDN 80, 300 MB", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit, Length: 300 * MB},
		{Name: "one", Title: "1 × 40 Mbit/s, CDN 80, 50 MB", Hosts: equal(1, 40*Mbit), CDN: 80 * Mbit, Length: 50 * MB},
	}
}

// sizes are swarms of equal peers, with a CDN ten times as fast as a peer.
func sizes() []Scenario {
	return []Scenario{
		{Name: "100-50MB", Title: "100 × 160 Mbit/s, CDN 1,000, 50 MB", Hosts: equal(100, 160*Mbit), CDN: 1000 * Mbit, Length: 50 * MB},
		{Name: "100-200MB", Title: "100 × 160 Mbit/s, CDN 1,000, 200 MB", Hosts: equal(100, 160*Mbit), CDN: 1000 * Mbit, Length: 200 * MB},
		{Name: "1000-50MB", Title: "1,000 × 100 Mbit/s, CDN 1,000, 50 MB", Hosts: equal(1000, 100*Mbit), CDN: 1000 * Mbit, Length: 50 * MB},
		{Name: "1000-200MB", Title: "1,000 × 100 Mbit/s, CDN 1,000, 200 MB", Hosts: equal(1000, 100*Mbit), CDN: 1000 * Mbit, Length: 200 * MB},
		{Name: "1000-300KB", Title: "1,000 × 100 Mbit/s, CDN 1,000, 300 KB", Hosts: equal(1000, 100*Mbit), CDN: 1000 * Mbit, Length: 300_000},
		{Name: "10000-50MB", Title: "10,000 × 100 Mbit/s, CDN 1,000, 50 MB", Hosts: equal(10_000, 100*Mbit), CDN: 1000 * Mbit, Length: 50 * MB, Large: true},
		{Name: "100000-50MB", Title: "100,000 × 100 Mbit/s, CDN 1,000, 50 MB", Hosts: equal(100_000, 100*Mbit), CDN: 1000 * Mbit, Length: 50 * MB, Large: true},
		{Name: "20-10GB", Title: "20 × 1 Gbit/s, CDN 1,000, 10 GB", Hosts: equal(20, 1000*Mbit), CDN: 1000 * Mbit, Length: 10_000 * MB},
	}
}

// mixes are swarms whose links differ, or whose peers do not start together.
func mixes() []Scenario {
	gigabit := []Hosts{{Count: 80, Up: 1000 * Mbit, Down: 1000 * Mbit}, {Count: 20, Up: 100 * Mbit, Down: 100 * Mbit}}
	hundred := []Hosts{{Count: 16, Up: 100 * Mbit, Down: 100 * Mbit}, {Count: 4, Up: 10 * Mbit, Down: 10 * Mbit}}
	return []Scenario{
		{Name: "mixed-1000", Title: "80 × 1 Gbit/s, 20 × 100 Mbit/s, CDN 1,000, 200 MB", Hosts: gigabit, CDN: 1000 * Mbit, Length: 200 * MB},
		{Name: "mixed-100", Title: "16 × 100 Mbit/s, 4 × 10 Mbit/s, CDN 100, 50 MB", Hosts: hundred, CDN: 100 * Mbit, Length: 50 * MB},
		{Name: "limit", Title: "100 × 1 Gbit/s, clients limit 20 MB/s, CDN 1,000, 200 MB", Hosts: equal(100, 1000*Mbit), CDN: 1000 * Mbit,
			Length: 200 * MB, LocalLimit: 20 << 20},
		{Name: "trickle", Title: "20 × 40 Mbit/s within 30 s, CDN 80, 50 MB", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit, Length: 50 * MB,
			Trickle: 30 * time.Second},
		{Name: "asymmetric", Title: "40 × 40 Mbit/s down, 4 up, CDN 160, 50 MB", Hosts: []Hosts{{Count: 40, Up: 4 * Mbit, Down: 40 * Mbit}},
			CDN: 160 * Mbit, Length: 50 * MB},
		{Name: "slow-source", Title: "40 × 40 Mbit/s, CDN 400, source 8, 50 MB", Hosts: equal(40, 40*Mbit), CDN: 400 * Mbit, Source: 8 * Mbit,
			Length: 50 * MB},
		{Name: "slow-cdn", Title: "20 × 40 Mbit/s, CDN 20, 50 MB", Hosts: equal(20, 40*Mbit), CDN: 20 * Mbit, Length: 50 * MB},
	}
}

// faults are swarms in which something does not work.
func faults() []Scenario {
	return []Scenario{
		{Name: "unreachable-30", Title: "40 × 20 Mbit/s, CDN 80, 50 MB, 30 % unreachable", Hosts: equal(40, 20*Mbit), CDN: 80 * Mbit,
			Length: 50 * MB, Unreachable: 0.3},
		{Name: "unreachable", Title: "40 × 20 Mbit/s, CDN 80, 50 MB, all unreachable", Hosts: equal(40, 20*Mbit), CDN: 80 * Mbit,
			Length: 50 * MB, Unreachable: 1},
		{Name: "crash-30", Title: "20 × 40 Mbit/s, CDN 80, 50 MB, 30 % are killed", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit,
			Length: 50 * MB, Crash: 0.3},
		{Name: "vanish-30", Title: "20 × 40 Mbit/s, CDN 80, 50 MB, 30 % of the hosts vanish", Hosts: equal(20, 40*Mbit), CDN: 80 * Mbit,
			Length: 50 * MB, Vanish: 0.3},
		{Name: "hang-10", Title: "20 × 40 Mbit/s, CDN 80, 50 MB, 10 % of transfers between peers hang", Hosts: equal(20, 40*Mbit),
			CDN: 80 * Mbit, Length: 50 * MB, Hang: 0.1},
	}
}

// several are several files, or several copies.
func several() []Scenario {
	return []Scenario{
		{Name: "five-tasks", Title: "5 tasks of 20 × 40 Mbit/s, one CDN 400, 50 MB each", Hosts: equal(20, 40*Mbit), Tasks: 5, CDN: 400 * Mbit,
			Length: 50 * MB},
		{Name: "two-copies", Title: "40 × 20 Mbit/s, two CDN of 80, 50 MB", Hosts: equal(40, 20*Mbit), CDN: 80 * Mbit, Instances: 2,
			Length: 50 * MB},
	}
}
