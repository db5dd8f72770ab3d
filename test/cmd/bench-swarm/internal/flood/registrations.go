package flood

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

const (
	version = "1.0.6"
	// malformedEvery is how many registrations there are for each with an id that
	// must be refused.
	malformedEvery = 5
	// placeholder is replaced in a body by bytes that JSON cannot be written with.
	placeholder = "ID"
)

// malformed returns ids that no server may accept.
func malformed() []string {
	const tooLong = 300
	return []string{"", strings.Repeat("x", tooLong), "../../etc/passwd", "\xff\xfe\xc0"}
}

// post sends as many registrations as the flood has, over kept connections.
func (f *Flood) post(ctx context.Context, registration func(number int) (body []byte)) {
	f.workers(ctx, f.cfg.Size, func(next func() (int, bool)) {
		conn := httpconn.New(f.cfg.Address)
		defer conn.Close()
		var request []byte
		for _, more := next(); more; _, more = next() {
			request = f.out.Post(request[:0], wire.RegisterPath, registration(int(f.number.Add(1))))
			f.tally.sent.Add(1)
			f.tally.answered(conn.Do(ctx, request))
		}
	})
}

// bogusRegistration registers a peer that does not exist for the file.
func (f *Flood) bogusRegistration(number int) []byte {
	id := f.cid(number)
	if number%malformedEvery == 0 {
		ids := malformed()
		id = ids[number/malformedEvery%len(ids)]
	}
	return f.body(number, id, f.cfg.URL, f.cfg.MD5)
}

// missingRegistration registers a peer for a URL of its own.
func (f *Flood) missingRegistration(number int) []byte {
	return f.body(number, f.cid(number), f.cfg.Missing+strconv.Itoa(number), "")
}

// cid returns an id in dfget's form. Its address is in a network that ordinary
// peers are not in.
func (f *Flood) cid(number int) string {
	return fmt.Sprintf("%s-%d-%.3f", ip(number), 1+f.draw(1<<15), float64(time.Now().UnixNano())/float64(time.Second))
}

func ip(number int) string {
	const hosts, networks = 250, 250
	return fmt.Sprintf("172.%d.%d.%d", 16+number/hosts/networks%16, number/hosts%networks, 1+number%hosts)
}

// body returns the body of a registration. The id stands in it byte for byte.
func (f *Flood) body(number int, id, url, md5 string) []byte {
	const lowestPort, ports = 15_000, 50_001
	body, err := json.Marshal(wire.Registration{
		SupernodeIP: "127.0.0.1", RawURL: url, TaskURL: url, Cid: placeholder, IP: ip(number), HostName: "host-" + strconv.Itoa(number),
		Port: lowestPort + number%ports, Path: "/peer/file/file-" + strconv.Itoa(number), Version: version, MD5: md5,
	})
	if err != nil {
		panic(err) // strings and numbers have a form in JSON
	}
	return bytes.Replace(body, []byte(`"`+placeholder+`"`), []byte(`"`+id+`"`), 1)
}
