// Package scenario describes what the benchmark runs: how many hosts there are,
// how fast their links are, when they begin and what goes wrong with them, and
// how fast a fluid would be there. All of it is arithmetic.
package scenario

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Mbit is a million bits per second, MB a million bytes.
const (
	Mbit = 1_000_000
	MB   = 1_000_000
)

// Share is a part of the hosts and the rate of their links in bits per second.
type Share struct {
	Part float64
	Rate int64
}

// Scenario holds the parameters of a run.
type Scenario struct {
	// Hosts is the number of clients, each on a host of its own.
	Hosts int
	// Rates are those of the hosts' links, in each direction.
	Rates []Share
	// Server is the rate of the link of each supernode, in bits per second.
	Server int64
	// Size is that of the file in bytes.
	Size int64
	// Arrive is the time over which the clients begin, evenly; 0 is all at once.
	Arrive time.Duration
	// Unreachable is the share of the hosts whose upload port drops what others
	// send, Crash that of the hosts that are killed in the middle.
	Unreachable, Crash float64
	// Supernodes is how many there are. KillOwner kills the task's owner when
	// that share of all bytes has arrived; 0 is never.
	Supernodes int
	KillOwner  float64
	// Seed draws which hosts are slow, unreachable and killed, and when.
	Seed uint64
}

// Client is what one host does.
type Client struct {
	Rate        int64 // bits per second
	Arrive      time.Duration
	Unreachable bool
	// Crash is the time from its start until it is killed; 0 is never.
	Crash time.Duration
}

// Clients draws what the hosts do.
func (s Scenario) Clients() []Client {
	random := rand.New(rand.NewPCG(s.Seed, 1)) //nolint:gosec // a schedule, no secret
	clients := make([]Client, s.Hosts)
	slot, order := 0, random.Perm(s.Hosts)
	for i, share := range s.Rates {
		end := min(slot+round(share.Part*float64(s.Hosts)), s.Hosts)
		if i == len(s.Rates)-1 {
			end = s.Hosts
		}
		for ; slot < end; slot++ {
			clients[order[slot]].Rate = share.Rate
		}
	}
	for i := range clients {
		clients[i].Arrive = s.Arrive * time.Duration(i) / time.Duration(s.Hosts)
	}
	for _, i := range random.Perm(s.Hosts)[:round(s.Unreachable*float64(s.Hosts))] {
		clients[i].Unreachable = true
	}
	full := s.bound(clients).Time
	for _, i := range random.Perm(s.Hosts)[:round(s.Crash*float64(s.Hosts))] {
		clients[i].Crash = time.Duration((0.2 + 0.6*random.Float64()) * float64(full))
	}
	return clients
}

// Bound is the least time that a fluid needs, and the term that decides it.
type Bound struct {
	Time time.Duration
	Term string
}

// Bound returns the fluid bound max(F/Us, F/dmin, N·F/(Us+ΣUi)): the server's
// uplink, the slowest downlink, all uplinks together. Hosts that are killed
// count nowhere, unreachable ones not among the uplinks. If the clients arrive
// one by one, each is measured from its own start and the last term does not
// count.
func (s Scenario) Bound() Bound { return s.bound(s.Clients()) }

func (s Scenario) bound(clients []Client) Bound {
	server := float64(s.Server) * float64(max(s.Supernodes, 1))
	bits := 8 * float64(s.Size)
	slowest, uplinks, counted := 0.0, server, 0
	for _, c := range clients {
		if c.Crash > 0 {
			continue
		}
		counted++
		if rate := float64(c.Rate); slowest == 0 || rate < slowest {
			slowest = rate
		}
		if !c.Unreachable {
			uplinks += float64(c.Rate)
		}
	}
	b := Bound{Term: "F/Us"}
	longest := bits / server
	if t := bits / slowest; t > longest {
		longest, b.Term = t, "F/dmin"
	}
	if t := float64(counted) * bits / uplinks; t > longest && s.Arrive == 0 {
		longest, b.Term = t, "N·F/(Us+ΣUi)"
	}
	b.Time = time.Duration(longest * float64(time.Second))
	return b
}

// Limit returns the time after which a run has failed.
func (s Scenario) Limit() time.Duration { return 20*s.Bound().Time + time.Minute + s.Arrive }

// String names the scenario.
func (s Scenario) String() string {
	var rates []string
	for _, r := range s.Rates {
		text := strconv.FormatInt(r.Rate/Mbit, 10)
		if len(s.Rates) > 1 {
			text = fmt.Sprintf("%.0f %% at %s", 100*r.Part, text)
		}
		rates = append(rates, text)
	}
	name := fmt.Sprintf("%d × %s Mbit/s, %d, %g MB", s.Hosts, strings.Join(rates, " and "), s.Server/Mbit, float64(s.Size)/MB)
	if s.Arrive > 0 {
		name += fmt.Sprintf(", arriving over %s", s.Arrive)
	}
	if s.Unreachable > 0 {
		name += fmt.Sprintf(", %.0f %% unreachable", 100*s.Unreachable)
	}
	if s.Crash > 0 {
		name += fmt.Sprintf(", %.0f %% crash", 100*s.Crash)
	}
	if s.Supernodes > 1 {
		name += fmt.Sprintf(", %d supernodes", s.Supernodes)
	}
	if s.KillOwner > 0 {
		name += fmt.Sprintf(", owner killed at %.0f %%", 100*s.KillOwner)
	}
	return name
}

// ParseRates reads "0.8:100,0.2:10", parts of the hosts and their Mbit/s.
func ParseRates(text string) ([]Share, error) {
	var shares []Share
	for field := range strings.SplitSeq(text, ",") {
		partText, rateText, ok := strings.Cut(field, ":")
		part, partErr := strconv.ParseFloat(partText, 64)
		rate, rateErr := strconv.ParseFloat(rateText, 64)
		if !ok || partErr != nil || rateErr != nil || part <= 0 || rate <= 0 {
			return nil, fmt.Errorf("%q is no part:rate", field)
		}
		shares = append(shares, Share{Part: part, Rate: int64(rate * Mbit)})
	}
	return shares, nil
}

// Check returns what cannot be run.
func (s Scenario) Check() error {
	const most = 200 // addresses of the network
	switch {
	case s.Hosts < 1 || s.Hosts > most:
		return fmt.Errorf("%d hosts: 1 to %d are possible", s.Hosts, most)
	case s.Size < 1 || s.Server < 1 || len(s.Rates) == 0 || s.Rates[0].Rate < 1:
		return fmt.Errorf("the file, the server's rate and the hosts' rates must be positive")
	case s.Supernodes != 1 && s.Supernodes != 3:
		return fmt.Errorf("%d supernodes: 1 or 3 are possible", s.Supernodes)
	case s.KillOwner < 0 || s.KillOwner >= 1 || (s.KillOwner > 0 && s.Supernodes < 2):
		return fmt.Errorf("killing the owner takes 3 supernodes and a share below 1")
	case s.Unreachable < 0 || s.Unreachable > 1 || s.Crash < 0 || s.Crash >= 1:
		return fmt.Errorf("shares of hosts are 0 to 1, and not all may crash")
	}
	return nil
}

func round(x float64) int { return int(x + 0.5) }
