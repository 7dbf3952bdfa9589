// What the servers in Node share: an HTTP server that takes `POST /rooms/NAME` and hands the body on before it answers.
'use strict';

const http = require('node:http');

const PATH = /^\/rooms\/([^/?]+)/;

/** The room that a request names in its path, or undefined. */
exports.roomOf = (request) => {
  const named = PATH.exec(request.url);
  return named === null ? undefined : decodeURIComponent(named[1]);
};

/** A server whose publishes go to `broadcast(room, body)`, the body a Buffer. */
exports.serve = (broadcast) => http.createServer((request, response) => {
  const room = exports.roomOf(request);
  if (request.method !== 'POST' || room === undefined) {
    response.writeHead(404).end();
    return;
  }
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    broadcast(room, chunks.length === 1 ? chunks[0] : Buffer.concat(chunks));
    response.writeHead(202, { 'Content-Type': 'application/json', 'Content-Length': 2 }).end('{}');
  });
});

/** Listens on the port that is the program's argument. */
exports.listen = (server) => {
  // A thousand readers connect at once, and a publisher keeps its connection however long it waits.
  server.keepAliveTimeout = 0;
  server.listen({ host: '127.0.0.1', port: Number(process.argv[2]), backlog: 4096 });
};
