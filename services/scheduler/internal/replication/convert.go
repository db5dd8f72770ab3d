package replication

import (
	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

const (
	// maxPartPieces and maxPartWords bound a part of an update: the number of its
	// pieces, and the number of words of its peers. A message of several parts must
	// stay below 4 MiB, the default limit of a gRPC server.
	maxPartPieces = 10_000
	maxPartWords  = 64 << 10
	// peerCost is the approximate size of a peer without its bit sets, in words.
	// wordCost is that of a word that is sent with its index.
	peerCost = 50
	wordCost = 5
)

// splitUpdate converts an update to parts: protobuf messages of bounded size. All parts
// after the first one add to it.
func splitUpdate(taskID string, u swarm.Update) []*schedulerv1.TaskMemory {
	first := &schedulerv1.TaskMemory{TaskId: taskID, Anew: u.Full, Forgotten: u.Removed, Outdated: u.Outdated}
	if f := u.Facts; f != nil {
		first.Facts = &cdnv1.SourceFacts{Length: f.Length, PieceSize: f.PieceSize, Etag: f.ETag, LastModified: f.LastModified}
	}
	if r := u.Result; r != nil {
		first.Result = &cdnv1.SeedResult{Md5: r.MD5, Length: r.Length, PieceCount: r.PieceCount}
	}
	list := []*schedulerv1.TaskMemory{first}
	// last returns the last part. It adds a new one first if that is full.
	last := func(full bool) *schedulerv1.TaskMemory {
		if full {
			list = append(list, &schedulerv1.TaskMemory{TaskId: taskID})
		}
		return list[len(list)-1]
	}
	for _, p := range u.Pieces {
		part := last(len(list[len(list)-1].GetPieces()) >= maxPartPieces)
		part.Pieces = append(part.Pieces, &cdnv1.Piece{Num: p.Num, Md5: p.MD5, Length: p.Length})
	}
	words := 0
	for _, p := range u.Peers {
		part := last(words >= maxPartWords)
		if words >= maxPartWords {
			words = 0
		}
		words += peerCost + len(p.Have) + len(p.Serves) + len(p.Writing) + wordCost*len(p.Words)
		part.Peers = append(part.Peers, &schedulerv1.PeerMemory{
			Peer: &schedulerv1.Peer{
				Id: p.ID, Ip: p.IP, Port: p.Port, Path: p.Path, HostName: p.HostName, Version: p.Version,
			},
			Have: p.Have, Serves: p.Serves, Writing: p.Writing, Partial: p.Partial, Words: wordsProto(p.Words),
			Left: p.Left, Migrant: p.Migrant, Newcomer: p.Newcomer,
		})
	}
	return list
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
