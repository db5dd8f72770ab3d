package replication

import (
	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// peerProto converts a peer, or what has changed in it.
func peerProto(p swarm.PeerUpdate) *schedulerv1.PeerMemory {
	return &schedulerv1.PeerMemory{
		Peer: &schedulerv1.Peer{
			Id: p.ID, Ip: p.IP, Port: p.Port, Path: p.Path, HostName: p.HostName, Version: p.Version,
		},
		Have: p.Have, Serves: p.Serves, Writing: p.Writing, Partial: p.Partial, Words: wordsProto(p.Words),
		Left: p.Left, Migrant: p.Migrant, Newcomer: p.Newcomer,
	}
}

func factsFrom(f *cdnv1.SourceFacts) swarm.Facts {
	return swarm.Facts{Length: f.GetLength(), PieceSize: f.GetPieceSize(), ETag: f.GetEtag(), LastModified: f.GetLastModified()}
}

func peerFrom(m *schedulerv1.PeerMemory) swarm.PeerUpdate {
	p := m.GetPeer()
	return swarm.PeerUpdate{
		PeerInfo: swarm.PeerInfo{
			ID: p.GetId(), IP: p.GetIp(), Port: p.GetPort(), Path: p.GetPath(), HostName: p.GetHostName(), Version: p.GetVersion(),
		},
		Have: m.GetHave(), Serves: m.GetServes(), Writing: m.GetWriting(), Partial: m.GetPartial(), Words: wordsFrom(m.GetWords()),
		Left: m.GetLeft(), Migrant: m.GetMigrant(), Newcomer: m.GetNewcomer(),
	}
}

func wordsProto(words []swarm.WordUpdate) []*schedulerv1.PeerWord {
	list := make([]*schedulerv1.PeerWord, len(words))
	for i, w := range words {
		list[i] = &schedulerv1.PeerWord{Index: w.Index, Have: w.Have, Serves: w.Serves, Writing: w.Writing}
	}
	return list
}

func wordsFrom(words []*schedulerv1.PeerWord) (list []swarm.WordUpdate) {
	for _, w := range words {
		list = append(list, swarm.WordUpdate{Index: w.GetIndex(), Have: w.GetHave(), Serves: w.GetServes(), Writing: w.GetWriting()})
	}
	return list
}
