package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
)

// Etcd is a member of an etcd that can be started again as it was.
type Etcd struct {
	*Process
	// Endpoint is its host:port for clients, Dir its directory.
	Endpoint, Dir string

	command       []string
	peer, members string
}

// RunEtcds runs an etcd with a member at every address, and waits until all
// answer.
func RunEtcds(t Scope, b *Binaries, ips ...string) []*Etcd {
	t.Helper()
	var specs []Spec
	for _, ip := range ips {
		specs = append(specs, Spec{IP: ip})
	}
	return RunEtcdsAt(t, b, specs...)
}

// RunEtcdsAt does the same on other hosts: of a spec IP and Inside count.
func RunEtcdsAt(t Scope, b *Binaries, specs ...Spec) []*Etcd {
	t.Helper()
	var etcds []*Etcd
	var peers []string
	for _, spec := range specs {
		e := &Etcd{
			Endpoint: net.JoinHostPort(spec.IP, "2379"), peer: net.JoinHostPort(spec.IP, "2380"),
			Dir: filepath.Join(t.TempDir(), "etcd"), command: slices.Concat(spec.Inside, []string{b.Path("etcd")}),
		}
		// However often it is started, it ends after those that need it.
		t.Cleanup(func() {
			if e.Process != nil {
				e.finish(t)
			}
		})
		etcds, peers = append(etcds, e), append(peers, e.peer)
	}
	for _, e := range etcds {
		e.members = strings.Join(peers, ",")
		e.launch(t)
	}
	for _, e := range etcds {
		e.await(t)
	}
	return etcds
}

// Launch starts it again and waits until it answers.
func (e *Etcd) Launch(t Scope) {
	t.Helper()
	e.launch(t)
	e.await(t)
}

func (e *Etcd) launch(t Scope) {
	t.Helper()
	args := slices.Concat(e.command[1:], []string{"--dir", e.Dir, "--client", e.Endpoint, "--peer", e.peer, "--members", e.members})
	e.Process = start(t, "etcd "+e.Endpoint, e.command[0], args...)
	e.foreign = true
}

func (e *Etcd) await(t Scope) {
	t.Helper()
	awaitOK(t, e.Process, "http://"+e.Endpoint+"/health")
}

// Leads tells whether it is the leader.
func (e *Etcd) Leads(t Scope) bool {
	t.Helper()
	leads, err := e.leads(t)
	if err != nil {
		t.Fatalf("asking %s whether it leads: %v", e.Name, err)
	}
	return leads
}

func (e *Etcd) leads(t Scope) (bool, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+e.Endpoint+"/v3/maintenance/status", strings.NewReader("{}"))
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var status struct {
		Header struct {
			MemberID string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return false, fmt.Errorf("reading its status: %w", err)
	}
	return status.Leader != "" && status.Leader == status.Header.MemberID, nil
}

// endpointsOf are those for clients, separated by commas.
func endpointsOf(etcds []*Etcd) string {
	var all []string
	for _, e := range etcds {
		all = append(all, e.Endpoint)
	}
	return strings.Join(all, ",")
}
