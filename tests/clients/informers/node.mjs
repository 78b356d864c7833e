// The informer of @kubernetes/client-node, started again after errors as its documentation shows.
import * as k8s from '@kubernetes/client-node';

const kc = new k8s.KubeConfig();
kc.loadFromDefault();
const namespace = process.argv[2];
const core = kc.makeApiClient(k8s.CoreV1Api);
const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/configmaps`, () => core.listNamespacedConfigMap({ namespace }));
const say = (type) => (o) => console.log(JSON.stringify([type, o.metadata.name, o.metadata.resourceVersion]));
informer.on('add', say('ADDED'));
informer.on('update', say('MODIFIED'));
informer.on('delete', say('DELETED'));
const start = () => informer.start().catch(() => setTimeout(start, 100));
informer.on('error', () => setTimeout(start, 100));
start();
