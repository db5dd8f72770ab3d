package peer

import "sync"

// Directory holds the peers of one process that serve, so that others can find
// out what a download from one of them would come to.
type Directory struct {
	mu    sync.RWMutex // guards peers
	peers map[string]*Peer
}

// NewDirectory returns an empty directory.
func NewDirectory() *Directory { return &Directory{peers: make(map[string]*Peer)} }

func (d *Directory) add(p *Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peers[p.id.cid] = p
}

func (d *Directory) remove(p *Peer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.peers, p.id.cid)
}

// find returns the peer with a cid, nil if it does not serve.
func (d *Directory) find(cid []byte) *Peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peers[string(cid)]
}
